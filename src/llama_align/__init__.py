"""The Llama 1, 2 and 3 recipes as runnable code on the Hugging Face stack."""

__version__ = "0.1.0"
