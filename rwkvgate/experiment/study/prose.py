"""What the study's page says of its question, its design, and what was changed after numbers had been seen."""

from __future__ import annotations

from rwkvgate.experiment.study.design import WORTH_KNOWING

HEAD = """# The study

`make study` asks whether the paper's gate, or a variant of it, lowers the loss of a network that is pretrained from
scratch, *for what it costs*, and which of the paper's claims hold. It is resumed where it was stopped, and writes this
page, with its tables, figures and verdicts, from [outputs/study](../outputs/study)."""
NAMES = """**Names.** *Enhanced* is a network with the paper's gate as written; *no-layer-norm* is without its
LayerNorm, and in *fixed-gate* the gate is the constant 1: the paper's two ablations. *Conv-routing* is the gate of the
paper's second version as we [read it](gates.md), for its text could not be had; *conv-only*, *routing-only* and
*conv-no-position* are parts of it; conv-only begins as a gate fixed at 1. *Identity-start* begins as the base.
*Ungated-shift* has no gate: it adds the last three inputs to each mixer, with learned weights that begin at 0.
*Base-wide* and *base-wider* are bases with a wider channel mixing, of about as many parameters as enhanced and
conv-routing. All of these but the bases are *arms*. 64x4 is a width of 64 channels and 4 layers."""
CHANGES = """## What was changed, and what had been seen

The design is of 2026-11-28, before any compared number was seen. [design.py](../rwkvgate/experiment/study/design.py)
and [inside_rules.py](../rwkvgate/experiment/study/inside_rules.py) list every change with its day. After compared
numbers had been seen, on 2026-11-29 and 30:

1. How a fine-tuning chooses its rates, after two of ten seeds: an arm that could not keep to the limit had been given
   the rate with the lowest loss, which favoured the gate. The two seeds are counted, with the arms that this concerns
   trained anew.
2. The rates of 64x4, chosen again after 600 steps in place of 300, when all ten seeds were seen: two arms had trained
   at 0.008, and the enhanced network had been +0.0275 [+0.0163, +0.0387] nats per token from a base of equal seconds.
   This favours the gate.
3. *No better* is corrected for the number of controls and arms, after 21 of the 60 trials of 64x4. This can only take
   a verdict away, and so can the next.
4. The fitted gap has Student's intervals over seeds, in place of a bootstrap's, which are too short with few seeds.
5. Fine-tuning on stories has one verdict for both choices of the rates, after all of it was seen. It took away a
   *reproduced* (the adaptive gate), and made *not reproduced* of a *contradicted* (the loss), which favours the gate.
6. Adapters, which train alone, no longer keep an arm from being *worse*.
7. Where training breaks is read between rates a quarter of an octave apart, after a sweep of octaves.
8. That a score "nearly doubles" is not reproduced wherever a ratio of 1.8 is excluded, after all of fine-tuning on
   stories was seen; it had been undecided where a gain of 0.01 could not be found. It made *not reproduced* of the
   *undecided here* of ROUGE-1 on stories, which goes against the gate.
9. That it is not reproduced *only* where that ratio is excluded, on 2026-11-30, when all of fine-tuning was seen; less
   than 0.01 better had been enough, whatever the score's own size. It can only take a verdict away, and took none.
10. The novels are trained at the rates chosen by what they forget, too, on 2026-11-30, when all else had been seen: at
    the rates with the lowest loss on stories, which were all that they had, their base forgot more than twofold. Claims
    about them have one verdict for both choices, by the rule of the stories, which can only weaken it. It changed none;
    at the new rates the loss by itself is contradicted, and ROUGE-L and ROUGE-1 are higher, by less than was claimed.
11. More seeds for the arms of 32x4 that were undecided and for conv-no-position at 64x4, with the controls that they
    are compared with, on 2026-11-30: as many as the table of seeds then asked for, by the spread so far. No difference
    was read before all were there, but for the fitted gap with 14 of the 45 seeds of 32x4. These arms are looked at
    twice, so their p values are doubled, which was decided with those 14 there; an arm decided at its first look keeps
    its own, so that both looks together err in up to 7.5 %. And twenty in place of ten for the enhanced network and its
    controls in memory, where the table asked for 265. When all of these had been seen, twelve in place of five for the
    enhanced network and its controls in the long trainings, by the same table; their differences with six seeds were
    read in passing, and changed nothing. And then, when these had been seen, ten in place of five for conv-routing,
    identity-start and ungated-shift, and for base-wider, by the same table. And last, when these had been seen, 18 for
    routing-only and for base-wider, again by the same table.
12. The gap over size and time is fitted to the mean of each size and length, since the size with most seeds would have
    most to say where each seed counts alike: on the same day, after that fit had been seen with the 14 seeds of 32x4.
13. Of what is read inside, the absence of a gain is corrected for the number of tests as its presence is, on the same
    day, after a reader had missed it, and all had been seen. It can only take a verdict away: *LayerNorm steadies the
    gradients* and *the gate filters noisy or irrelevant past* had been *not reproduced*.
14. Long trainings at 32x4 beside those at 64x4, with twelve seeds from the start, on the same day, when all else had
    been seen and before any of them: the fitted gap knew of long trainings at one width alone.
15. The base's loss between two of its budgets is read on a parabola through three, in place of a line through two, on
    the same day, after a reader had seen that the line lies above the curve, which favours every arm at equal FLOPs and
    seconds. It moved no difference that a verdict rests on by more than 0.0006, and changed no verdict.

Before any trial of theirs, the rules of memory, long range, the other tasks, fiction and "the gate regularises" were
made stricter, and the design smaller, for time: a width of 32 in place of 192; the other arms, the families and the
long trainings at 64x4 in place of 128x4; five seeds of the paper's arms at 128x4. On 2026-11-30, also before any trial
of theirs was finished, the other families got a rule, and the recurrent gate became a stage."""
DESIGN = f"""## Design

A *trial* is one training of one network with one rate and one seed. The design was fixed before any compared number was
seen. This is the design as it is now: [fifteen changes](#what-was-changed-and-what-had-been-seen) came later, and are
listed at the end with what was known.

- **Text**, *the books*: Shakespeare's plays and the King James Bible, from two packages of the Python index, pinned by
  SHA-256: the same for everyone. Every tenth work is held out for validation, and every tenth for the test. A pass
  over the others, 2.36 M tokens, is 1,152 steps: 600 steps see half of them, 3,000 see them 2.6 times.
- **Networks**: RWKV-6 with 4 layers, 64 channels wide, and for the paper's arms 32 and 128; the base, gated arms, and
  bases with a wider channel mixing that have as many parameters as an arm (*base-wide*). [gates.md](gates.md) has the
  arms' equations: *enhanced* is the paper's, in *fixed-gate* its gate is the constant 1, and *conv-no-position* is a
  part of its second version. A step is of 16 rows of 128 tokens, of a vocabulary of 2,048, by AdamW.
- **Other families**: a GRU, a Transformer and RWKV-7 with the base's number of parameters, for five seeds. They are no
  arms; their losses and multipliers stand beside the arms'. That the gate is a new state of the art among recurrent
  models is contradicted if the GRU or RWKV-7 is shown to have a lower loss than the gates of both of the paper's
  versions after as many steps, and not reproduced if both gates are shown less than the margin better than one of the
  two; being better than both would be no state of the art.
- **Recurrent gate**: the paper's previous hidden state read as the gate's own result of one token before, which makes
  it a recurrence over time.
- **Controls**: the base with the arm's number of steps, of FLOPs, of seconds, and a base with its parameters. *A gain
  is one that stands against each of the four.* Each training has a constant learning rate, and a branch for each budget
  in which the rate falls to zero over the last fifth (a cooldown, arXiv 2405.18392). So the base's loss is known as a
  function of its steps, and its loss at the arm's FLOPs or seconds is read on the parabola, in the logarithm of the
  steps, through its branches at 1 and 1.3 times the arm's steps and the one before; beyond 1.3, on the line through
  these two, which lies above the curve, and favours the arm. FLOPs are those of matrix products and of the WKV
  recurrence. The ratio of seconds is taken as exact; they are those of a training step on one core, [measured in
  turn](../outputs/study/seconds.csv) on an idle machine, with the WKV operator in plain PyTorch: beside compiled loops,
  in which the trials themselves ran, every gate takes a larger share of the time.
- **Learning rates**: a grid of three for each network (arXiv 1909.03004), a factor of two apart, on two seeds of their
  own, trained for as long as the comparison, but for 300 of its 600 steps at 128x4, 1,200 of 3,000 in the long
  trainings, and 200 of 400 in fine-tuning; a best rate at the edge of the grid adds the next one beyond it, until the
  best lies inside, so some have more. Long range and the other tasks take the rates that are best on the books, memory
  chooses its own, and what is read inside trains at 0.004.
- **Seeds** are fresh, and paired: the same rows in the same order, and the same weights where shapes agree. Ten for the
  paper's arms at 64x4, in memory and on stories, and five elsewhere, are what the hours allowed at first: ten find a
  difference of one standard deviation of the pairs with 80 % power, five one of 1.7. In [the search](search.md),
  before, that of the paper's gate had been 0.018 nats per token, for which 0.01 takes 27 seeds. Of the arms that this
  left undecided some were given more, with their controls, at 32x4, 64x4, there for longer too, and in memory (change
  11). Of what stays undecided the tables say how many are needed. Simulated, the intervals
  [cover](metrics.md#statistics) what they should with few seeds.
- **Memory**: two layers of 64 channels, trained on a mixture in which recall pays: associative recall of 8 pairs (the
  task MQAR of arXiv 2312.04927), copying of 16 symbols, induction, and a passkey of 5, each of 64 tokens. Tested at 1,
  2, 4 and 8 times that length, with as much to remember; all four lengths count alike. All verdicts are undecided while
  neither the base nor the enhanced network recalls half of a task at the trained length, and where the base misses less
  than twice the margin.
- **Where training breaks**: base, enhanced and the arm without LayerNorm on four seeds, for 100 steps, of which 40 warm
  up, with gradients clipped at a norm of 1; at rates an octave apart, and a quarter of an octave between the two where
  most broke. The claim that LayerNorm stabilises training is about the rate that a training survives.
- **Inside**: base, enhanced, no-layer-norm and fixed-gate at one rate on five seeds, read at four budgets for what the
  paper's discussion says in words: covariate shift, gradients, stability, noise. And base, enhanced and the fixed gate
  on 1/16 and 1/64 of the training documents for as many steps, for the claim that the gate regularises. Only the base
  of equal steps stands beside them: the enhanced network has 3 % more parameters.
- **Long range**: base, base-wide, enhanced and conv-no-position trained at 512 tokens; the loss of 64 tokens of an act
  of a play, or of a stretch of the Bible, after 64 to 1,024 tokens of the same text, and after as many of which all but
  the last 64 come from another work. The difference is what a network gains from the earlier context. The claim is
  reproduced if the enhanced network gains more than every control at 1,024 tokens and has a lower loss, contradicted if
  it gains less than every control, and not reproduced if it is shown to gain less than the margin more than some
  control; undecided while the base itself gains less than the margin. A pilot of the base alone gained nothing after
  300 steps, so they have 1,200. Beyond 1,024 tokens, twice the trained length, nothing is read, since
  the base hardly gains within them; what lies farther back was not measured. Nor are the choices between
  sentences about an entity, after fine-tuning, repeated in longer texts: in the stories' own
  length the tuned base chooses no better than by chance.
- **Other tasks**: the same four networks trained on generated stories; multiple choice by log-likelihood, which person
  of a new story holds an object, and which genre a sentence is of; and the loss of half a story after the training
  story that BM25 ranks first for its other half, against a random one. Undecided while the base is not shown to be
  better than a trivial system: naming whom the story names last before the object. Genres get no verdict, for a list of
  words tells them apart.
- **Margin of equivalence**, the smallest gain that is worth knowing: {WORTH_KNOWING["books"]:g} nats per token,
  {WORTH_KNOWING["books"]:g} of ROUGE and BLEU, and {WORTH_KNOWING["memory"]:g} of recall and of choices.
- **Verdicts on an arm**, at the largest budget: *better* if its loss is shown to be lower than that of all four
  controls (the largest one-sided p of the four, with Holm's correction over the arms of a stage); *worse* if it is
  shown to be higher than that of all four, by the same test; *no better* if a gain of the margin is excluded against
  one control or more (the smallest p, corrected for the number of controls, and by Holm over the arms); else
  *undecided*. Intervals are over training seeds and test items together.
"""
