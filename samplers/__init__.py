"""How x at the next timestep is made from eps.

    sampler = Sampler(SamplerConfig(name="plms", steps=50, offset=1, final="first"), diffusion)
    noise = ImageNoise(seeds, (4, 64, 64), device)
    for step in sampler.sample(guide(denoiser, cond, uncond, scale=7.5), noise(), noise):
        ...  # step.timestep, step.x, step.x0

`schedule` says how much signal is left at each training timestep, `spacing` which of them are visited, `timetable` what
each step goes from and to. `ddim`, `plms`, `dpmpp_2m` and `ddpm` are generators without state of their own: a denoiser,
x_T and a timetable in, one Step per step out. `guidance` makes one denoiser of two predictions, at every
evaluation or as a plan says; `noise` gives every image a generator of its own. Samplers never hear of caching, which
lives in the denoiser.

Coefficients are Python floats, computed in float64; timesteps are on the device before a loop begins, and nothing in
the loop waits for the device.

Which settings are which published sampler (the noise schedule comes with the model):

| published                     | name     | spacing              | offset | final | besides                |
|-------------------------------|----------|----------------------|--------|-------|------------------------|
| DDPM (Ho et al.)              | ddpm     | uniform, steps = T   | 0      | one   | variance               |
| DDIM, DeepCache (ermongroup)  | ddim     | uniform or quadratic | 0      | one   | eta                    |
| "ddpm_noisy" (ermongroup)     | ddpm     | uniform or quadratic | 0      | one   | variance=fixedlarge    |
| LDM, Stable Diffusion: DDIM   | ddim     | uniform or quadratic | 1      | first | eta, guidance          |
| LDM, Stable Diffusion: PLMS   | plms     | uniform              | 1      | first | guidance               |
| PNDM of diffusers, as with SD | plms     | leading              | 1      | first | guidance               |
| DPM-Solver++ 2M of diffusers  | dpmpp_2m | see below            | any    | one   | guidance, clip         |
| guided-diffusion "250"        | ddpm     | fractional           | 0      | one   | variance=learned_range |
| guided-diffusion "10,10,15"   | ddpm     | 10,10,15             | 0      | one   | variance=learned_range |
| guided-diffusion "ddim25"     | ddim     | strided              | 0      | one   | clip                   |

DPM-Solver++ 2M takes the steps of diffusers where it visits the same timesteps; those that diffusers lays itself are
none of our spacings. It extrapolates in λ = ½ ln(ᾱ / (1 - ᾱ)), where uniform timesteps end in ever longer leaps, which
at few steps can cost more than the second order gains; `quadratic` is more even.
"""

from samplers.contract import ConditionalDenoiser, Denoiser, Noise, Step, eps_only, split_output
from samplers.ddim import ddim
from samplers.ddpm import ddpm
from samplers.dpmpp import dpmpp_2m
from samplers.guidance import GuidanceConfig, GuidancePlan, guide, uncond_evals
from samplers.noise import NUM_SEEDS, ImageNoise
from samplers.plms import plms
from samplers.sampler import Sampler, SamplerConfig
from samplers.schedule import DiffusionConfig
from samplers.spacing import space
from samplers.timetable import Timetable, timetable

__all__ = [
    "ddim", "ddpm", "dpmpp_2m", "plms", "eps_only", "guide", "space", "split_output", "timetable", "uncond_evals",
    "ConditionalDenoiser", "Denoiser", "DiffusionConfig", "GuidanceConfig", "GuidancePlan", "ImageNoise", "Noise",
    "NUM_SEEDS", "Sampler", "SamplerConfig", "Step", "Timetable",
]  # fmt: skip
