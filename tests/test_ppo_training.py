"""Learning is chance: an attempt at PPO that falls short on CartPole with one seed is trained with another one."""

from graders import find
from graders.batch import Job, grade_each

ATTEMPT = '''
import torch


class ActorCritic(torch.nn.Module):
    """Pushes to where the pole leans and falls to, or always to the same side."""

    def __init__(self, side):
        super().__init__()
        self.side = torch.nn.Parameter(torch.tensor(float(side)))

    def forward(self, obs):
        fall = obs @ torch.tensor([0.1, 0.3, 1.0, 1.0])
        right = torch.where(self.side == 0, torch.ones_like(fall), self.side * fall)
        return torch.stack([-right, right], 1), torch.zeros(len(obs))

    def act(self, obs, generator=None):
        raise NotImplementedError


def train(make_env, *, total_steps, seed):
    env = make_env()
    env.reset(seed=seed)
    pushed = env.step(1)[0][1]  # velocity
    return ActorCritic(pushed / abs(pushed) if {learns} else 0)
'''


def test_one_seed_of_two_is_enough():
    jobs = [Job(f"{seed}", ATTEMPT.replace("{learns}", "seed % 2"), seed, check="train_cart_pole") for seed in (4, 5)]
    jobs += [Job("never", ATTEMPT.replace("{learns}", "False"), 4, check="train_cart_pole")]
    *learned, (_, (never,)) = grade_each(find("ppo"), "torch", jobs, whole=True)
    assert all(check.outcome == "passed" for _, (check,) in learned)
    assert never.outcome == "failed"
    assert "with another seed" in never.message
    assert never.message.count("\nreturns") == 2
