"""Text from compiled language models: tokens, sampling, chat. Imports neither PyTorch nor transformers."""

from .llm import LLM, Piece
from .sampling import Sampling
from .stats import Stats

__all__ = ["LLM", "Piece", "Sampling", "Stats"]
