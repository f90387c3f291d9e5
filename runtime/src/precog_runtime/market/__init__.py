"""Prices: where they come from, how they are kept, and how they are kept up to date."""
