"""Blind rating of two arms' continuations by people: the pairs and their files, the widget, the analysis."""
