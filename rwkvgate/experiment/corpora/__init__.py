"""The texts of a run: generated stories, natural English, local files and data sets; splits, prompts, tokenizer."""
