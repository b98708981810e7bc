"""What the five notebooks share: settings, arms, corpora, training, steps, studies, claims and the search."""
