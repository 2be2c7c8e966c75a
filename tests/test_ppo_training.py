"""Learning is chance: an attempt at PPO that falls short on CartPole with one seed is trained with another one."""

import pytest

from graders import find
from graders.batch import Job, grade_each

ATTEMPT = '''
import torch


class ActorCritic(torch.nn.Module):
    """Pushes to where the pole falls, by the weights given."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(weights))

    def forward(self, obs):
        right = obs @ self.weights
        return torch.stack([-right, right], 1), torch.zeros(len(obs))

    def act(self, obs, generator=None):
        raise NotImplementedError


def train(make_env, *, total_steps, seed):
    env = make_env()
    env.reset(seed=seed)
    pushed = env.step(1)[0][1]  # velocity
    return ActorCritic([float(pushed / abs(pushed)) * weight for weight in {weights}])
'''


GOOD, MIDDLING, BAD = [0.1, 0.3, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]  # come to 500, 200 and 9


def verdict(*weights, seed=4):
    """That of the check on trainings which give such policies, with this seed and the next."""
    chosen = f"{weights}[seed - {seed}]"
    job = Job("by hand", ATTEMPT.replace("{weights}", chosen), seed, check="train_cart_pole")
    ((_, (check,)),) = grade_each(find("ppo"), "torch", [job], whole=True)
    return check


def test_one_seed_of_two_is_enough():
    assert verdict(MIDDLING, GOOD).outcome == "passed"


@pytest.mark.parametrize(("first", "second", "so"), [(BAD, MIDDLING, "It learns"), (BAD, BAD, "Episodes of one step")])
def test_what_came_of_both_is_said(first, second, so):
    found = verdict(first, second)
    assert found.outcome == "failed"
    assert "with another seed" in found.message
    assert found.message.count("\nreturns") == 2
    assert f"so        {so}" in found.message
