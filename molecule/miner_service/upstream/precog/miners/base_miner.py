"""The forward function without ours: it knows no price, so that a test tells which of the two runs."""


async def forward(synapse, _cm):
    """Answer that there is no answer."""
    synapse.predictions = None
    return synapse
