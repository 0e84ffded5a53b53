"""How good: data sets, metrics, statistics, and the one door to MLflow."""
