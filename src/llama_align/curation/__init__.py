"""From raw web pages to a corpus (Llama 3, section 3.1): extraction, filters, deduplication, classifiers, pipeline.

Knows pages, text and datatrove; nothing of models being trained, except for the heavy quality classifier.
"""
