"""Published mixtures: shares of the tokens of a run, by source.

Their names stand for `mixture` in a stage; the sources of the run then have these names.
"""

MIXES = {
    # LLaMA (2023), table 1: sampling proportion; epochs there at 1.4T tokens
    "llama-1": {
        "commoncrawl": 0.67,
        "c4": 0.15,
        "github": 0.045,
        "wikipedia": 0.045,
        "books": 0.045,
        "arxiv": 0.025,
        "stackexchange": 0.02,
    },
    # The Llama 3 Herd of Models, section 3.1.2: "roughly"
    "llama-3": {"general": 0.5, "maths_and_reasoning": 0.25, "code": 0.17, "multilingual": 0.08},
}
