"""How to get better: reward, credit over the call DAG, losses, the rollout buffer, warm start and joint PPO."""
