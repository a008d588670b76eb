"""LlamaHerd's configuration: Llama's fields under a model type of its own."""

from transformers import LlamaConfig


class LlamaHerdConfig(LlamaConfig):
    """Configuration of a LlamaHerd model. Every field and default is that of `transformers.LlamaConfig`."""

    model_type = "llama_herd"
    # trl.trainer.utils.create_model_from_path reads it from every configuration class
    auto_map = {}  # noqa: RUF012
    # the score head of a value model (token classification) is bit-equal to that of the reward model it starts from
    token_classification_bias = False
    classifier_dropout = 0.0

    def save_pretrained(self, save_directory, **kwargs):
        """As transformers; a configuration registered for an Auto class is saved with its code."""
        if self._auto_class is not None:
            # transformers adds to what it finds here: else to the class's, which is not written
            self.auto_map = dict(self.auto_map)
        return super().save_pretrained(save_directory, **kwargs)


__all__ = ["LlamaHerdConfig"]
