"""Recurrent policies: any neural memory of :mod:`stm_rl.memory`, on any Gymnasium environment, trained with PPO."""

from stm_rl_agents.recurrent.agent import RecurrentAgent, evaluate
from stm_rl_agents.recurrent.network import RecurrentNetwork
from stm_rl_agents.recurrent.ppo import RecurrentPPOSettings, RecurrentPPOTrainer, make_envs

__all__ = ["RecurrentAgent", "RecurrentNetwork", "RecurrentPPOSettings", "RecurrentPPOTrainer", "evaluate", "make_envs"]
