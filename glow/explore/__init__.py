"""The web page that shows a trained model; it uses the editing kit and nothing else."""
