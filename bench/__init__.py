"""Measures the no-change run of kernel_tuning beside its rivals, in one run on one local fleet (docs/speed.md)."""
