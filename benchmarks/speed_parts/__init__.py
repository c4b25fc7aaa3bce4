"""Parts of the speed benchmark: models, measuring, and one module for each question."""
