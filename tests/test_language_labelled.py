import torch
from trl.trainer.utils import add_fused_lm_head

from stm_rl_agents.language.chat import load_policy_model
from stm_rl_agents.language.labelled import score_labelled_only


def test_labelled_tokens_alone_give_the_same_loss_and_gradients():
    score_labelled_only()
    score_labelled_only()  # twice is once
    model, _ = load_policy_model("tiny-tools")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 3000, (3, 20), generator=draw)
    labels = torch.where(torch.rand(ids.shape, generator=draw) < 0.2, ids, -100)
    wanted = model(input_ids=ids, labels=labels).loss
    wanted.backward()
    gradient = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    add_fused_lm_head(model)
    projected = []
    model.lm_head.register_forward_hook(lambda *_: projected.append(1))
    found = model(input_ids=ids, labels=labels, fused_lm_head=True)
    found.loss.backward()
    torch.testing.assert_close(found.loss, wanted)
    torch.testing.assert_close(model.model.layers[0].mlp.up_proj.weight.grad, gradient, rtol=1e-4, atol=1e-6)
    assert found.log_probs.shape == (3, 19)
    assert not projected  # the whole head has not been run


def test_only_labelled_tokens_reach_the_head(monkeypatch):
    import trl.trainer.utils

    score_labelled_only()
    model, _ = load_policy_model("tiny-tools")
    add_fused_lm_head(model)
    seen = []
    function = trl.trainer.utils._ChunkedLogProbFunction

    class Watched:
        @staticmethod
        def apply(hidden, *rest):
            seen.append(hidden.shape)
            return function.apply(hidden, *rest)

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", Watched)
    labels = torch.full((2, 10), -100)
    labels[0, 4] = labels[1, 7] = labels[1, 8] = 5
    model(input_ids=torch.full((2, 10), 5), labels=labels, fused_lm_head=True)
    assert seen == [(3, 128)]
