"""The published files that this library reads: where they are, and how each is loaded.

Nothing is downloaded here. Sizes and checksums are not known: none of the publishers states them beside
its files. The names of the files of score_sde and score_flow have the number of a checkpoint, of which
some folders hold two.
"""

from pathlib import Path
from typing import NamedTuple

from score_jax.convert.published import ALIASES


class PublishedFile(NamedTuple):
    """A published file or folder: where it is, and the preset to read it with, unless it needs none.

    place: the file of a release of this library, below the current folder or the checkout, where it is
    found by its name; sha256: of that file.
    """

    source: str
    preset: str | None = None
    place: str | None = None
    sha256: str | None = None

    def how(self) -> str:
        """What to download, and how it is loaded."""
        given = "" if self.preset is None else f', "{self.preset}"'
        load = f"load it with load_pretrained(PATH{given})"
        if self.place is not None:
            return f"download {self.source} to {self.place} in the current folder, or {load}"
        return f"download {self.source} and {load}"


_DRIVE = "a checkpoint_N.pth of https://drive.google.com/drive/folders/"
_OPENAI = "https://openaipublic.blob.core.windows.net/diffusion/march-2021/"
_DRIVE_FLOW = "https://drive.google.com/drive/folders/1gbDrVrFVSupFMRoK7HZo8aFgPvOtpmqB"
_FLOW = f"a checkpoint_N of {_DRIVE_FLOW}, folder "
_CONSISTENCY = "https://openaipublic.blob.core.windows.net/consistency/jcm_checkpoints/"
_NVIDIA = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"
_PHEMA = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions/"
_HUB = "the folder https://huggingface.co/google/"

# README of github.com/yang-song/score_sde_pytorch, by preset.
_SONG = {
    "ve_cifar10_ncsnpp": "1sP4GwvrYiI-sDPTp7sKYzsxJLGVamVMZ",
    "ve_cifar10_ncsnpp_continuous": "1b0gy_LLgO_DaQBgoWXwlVnL_rcAUgREh",
    "ve_cifar10_ncsnpp_deep_continuous": "11s6A_xM7qiztdj8AHQWqaIAUSC3I7uX2",
    "vp_ddpm_cifar10": "1zDKcy3xbsN3F4AfyB_DfY_1oho89iKcf",
    "vp_ddpm_cifar10_continuous": "1RHNxW1qY-mTr0JMAE5t4V181Hi_aVWXK",
    "vp_cifar10_ddpmpp": "1zOVj03ZBcq339p5QEKJPh2bBrxR_HOCM",
    "vp_cifar10_ddpmpp_continuous": "1xYjVMx10N9ivQQBIsEoXEeu9nvSGTBrC",
    "vp_cifar10_ddpmpp_deep_continuous": "1ZMLBiu9j7-rpdTQu8M2LlHAEQq4xRYrj",
    "subvp_cifar10_ddpm_continuous": "1DeebpmBkCxlZx89t3z45Te37T7BPOzd2",
    "subvp_cifar10_ddpmpp_continuous": "1bLgmnEAZnysRZfWt8qN3omGfijJ_B884",
    "subvp_cifar10_ddpmpp_deep_continuous": "16QGkviGcizSbIPRk37-YksUhlNIna4Ys",
    "ve_bedroom_ncsnpp_continuous": "18GmxDvfGR8se9uFucc9uweeVrX_GzuUG",
    "ve_church_ncsnpp_continuous": "1zVChA0HrnJU66Jkt4P6KOnlREhBMc4Yh",
    "ve_ffhq_ncsnpp_continuous": "1ZqLNr_kH0o9DxvwSlrQPMmkrhEnXhBm2",
    "ve_ffhq_256_ncsnpp_continuous": "1KG72ZKUCUa8dDcA03hOf1BsnK8kBcdPD",
    "ve_celebahq_256_ncsnpp_continuous": "19VJ7UZTE-ytGX6z5rl-tumW9c0Ps3itk",
}
# README of github.com/openai/improved-diffusion.
_IMPROVED = {
    "cifar10_uncond_50M_500K.pt": "iddpm_cifar10",
    "cifar10_uncond_vlb_50M_500K.pt": "iddpm_cifar10_vlb",
    "imagenet64_uncond_100M_1500K.pt": "iddpm_imagenet64",
    "imagenet64_uncond_vlb_100M_1500K.pt": "iddpm_imagenet64_vlb",
    "imagenet64_cond_270M_250K.pt": "iddpm_imagenet64_cond",
    "upsample_cond_500K.pt": "iddpm_upsample_64_256",
    "lsun_uncond_100M_1200K_bs128.pt": "iddpm_lsun_bedroom",
}
# README of github.com/NVlabs/edm.
_EDM = (
    "edm-cifar10-32x32-cond-vp", "edm-cifar10-32x32-cond-ve", "edm-cifar10-32x32-uncond-vp",
    "edm-cifar10-32x32-uncond-ve", "edm-ffhq-64x64-uncond-vp", "edm-ffhq-64x64-uncond-ve",
    "edm-afhqv2-64x64-uncond-vp", "edm-afhqv2-64x64-uncond-ve", "edm-imagenet-64x64-cond-adm",
    "baseline/baseline-cifar10-32x32-uncond-vp", "baseline/baseline-cifar10-32x32-uncond-ve",
    "baseline/baseline-imagenet-64x64-cond-adm",
)  # fmt: skip
# Presets of the program of github.com/NVlabs/edm2: size, images in thousands, widths of the averages.
_EDM2 = (
    ("img512-xs", "2147483", "0.045 0.135 0.150 0.200"),
    ("img512-xs", "0134217", "0.125 0.165"),
    ("img512-xs-uncond", "2147483", "0.015 0.020 0.025 0.030 0.035 0.045 0.085 0.150"),
    ("img512-xs-uncond", "0134217", "0.110 0.125"),
    ("img512-s", "2147483", "0.025 0.070 0.085 0.120 0.130 0.190"),
    ("img512-s-uncond", "2147483", "0.070 0.090"),
    ("img512-m", "2147483", "0.015 0.030 0.100 0.155"),
    ("img512-m", "0268435", "0.155 0.205"),
    ("img512-l", "1879048", "0.015 0.035 0.085 0.155"),
    ("img512-xl", "1342177", "0.020 0.030 0.085 0.155"),
    ("img512-xxl", "0939524", "0.015 0.070 0.075 0.130 0.150"),
    ("img64-xs", "0134217", "0.110 0.175"),
    ("img64-s", "1073741", "0.045 0.075 0.105"),
    ("img64-m", "2147483", "0.060"),
    ("img64-l", "1073741", "0.040"),
    ("img64-xl", "0671088", "0.040"),
)
# README of github.com/openai/consistency_models_cifar10. All have the name of a checkpoint only.
_JCM = (
    "cd-l1/checkpoints/checkpoint_80", "cd-l2/checkpoints/checkpoint_80",
    "cd-lpips/checkpoints/checkpoint_80", "ct-lpips/checkpoints/checkpoint_74",
    "cifar10-continuous-cd-l2/checkpoints/checkpoint_40",
    "cifar10-continuous-cd-l2-stopgrad/checkpoints/checkpoint_40",
    "cifar10-continuous-cd-lpips-stopgrad/checkpoints/checkpoint_40",
    "continuous-ct-l2/checkpoints/checkpoint_80", "continuous-ct-lpips/checkpoints/checkpoint_40",
)  # fmt: skip
# README of github.com/yang-song/score_flow: the same networks, trained for their likelihood.
_SCORE_FLOW = {
    "cifar10_vp": "vp_cifar10_ddpmpp_continuous",
    "cifar10_deep_vp": "vp_cifar10_ddpmpp_deep_continuous",
    "cifar10_subvp": "subvp_cifar10_ddpmpp_continuous",
    "cifar10_deep_subvp": "subvp_cifar10_ddpmpp_deep_continuous",
}
# README of github.com/google-research/vdm.
_VDM = {"vdm cifar10": "checkpoint-final", "vdm cifar10_aug": "aug-checkpoint-final"}
_BUCKET = "a ckpt-N.flax of gs://gresearch/vdm/cifar10/"
_FOLDERS = (
    "ddpm-cifar10-32", "ddpm-church-256", "ddpm-bedroom-256", "ddpm-celebahq-256",
    "ncsnpp-celebahq-256", "ncsnpp-ffhq-256", "ncsnpp-church-256", "ncsnpp-ffhq-1024",
)  # fmt: skip
# Releases of this library, by name: the sha256 of pretrained/NAME.npz.
_RELEASES: dict[str, str | None] = {
    "fashion_vp": "afa1b299384c9ea0da12dbe2e4dc859baa0beefae5d4e3485ce742a2fa62bf65",
}
_OURS = "https://github.com/score-jax/score_jax/raw/main/"


def _release(place: str, sha256: str | None) -> PublishedFile:
    return PublishedFile(f"{_OURS}{place}", place=place, sha256=sha256)


PUBLISHED_FILES: dict[str, PublishedFile] = {
    **{name: _release(f"pretrained/{name}.npz", sha256) for name, sha256 in _RELEASES.items()},
    **{preset: PublishedFile(f"{_DRIVE}{place}", preset) for preset, place in _SONG.items()},
    **{name: PublishedFile(f"{_OPENAI}{name}", preset) for name, preset in _IMPROVED.items()},
    **{f"{name.split('/')[-1]}.pkl": PublishedFile(f"{_NVIDIA}{name}.pkl") for name in _EDM},
    **{
        (name := f"edm2-{size}-{images}-{width}.pkl"): PublishedFile(f"{_PHEMA}{name}")
        for size, images, widths in _EDM2
        for width in widths.split()
    },
    **{
        name.split("/")[0]: PublishedFile(f"{_CONSISTENCY}{name}", "cifar10_consistency")
        for name in _JCM
    },
    "edm_cifar10_ema": PublishedFile(f"{_CONSISTENCY}edm_cifar10_ema", "cifar10_edm_jcm"),
    **{
        f"score_flow {name}": PublishedFile(f"{_FLOW}{name}", preset)
        for name, preset in _SCORE_FLOW.items()
    },
    **{name: PublishedFile(f"{_BUCKET}{place}/checkpoints-0") for name, place in _VDM.items()},
    **{name: PublishedFile(f"{_HUB}{name}") for name in _FOLDERS},
}


def published_file(path: Path, preset: str | None = None) -> PublishedFile | None:
    """The published file of this name, or of this preset; None if none is known.

    >>> published_file(Path("edm-cifar10-32x32-uncond-vp.pkl")).how()
    'download https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-vp.pkl and ...'
    """
    # Of several files of a preset the first.
    files = reversed(PUBLISHED_FILES.values())
    presets = {file.preset: file for file in files if file.preset is not None}
    wanted = path.name if preset is None else preset
    wanted = ALIASES.get(wanted, wanted)
    return PUBLISHED_FILES.get(path.name) or presets.get(wanted)
