"""Forecasts: the model that is served, upstream's rule to compare with, and the backtest."""
