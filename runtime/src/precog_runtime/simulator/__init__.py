"""A stand-in for the market data API: seeded prices, served as the real one serves them, with faults to switch on."""
