"""What is done is never done again: jobs, plans, the store, workers, and the pipeline behind ``explain``. No torch."""
