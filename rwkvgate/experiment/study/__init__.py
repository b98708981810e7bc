"""The study that decides: trainings on text that is the same for everyone, with controls of equal compute."""
