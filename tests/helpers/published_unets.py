"""The published networks of Improved DDPM and ADM: the flags that their authors give, and their sizes.

Flags: README.md of openai/improved-diffusion @ 1bc7bbb and openai/guided-diffusion @ 22e0df8; what a
flag leaves out is the default of their `script_util.py`. Numbers of parameters: counted from the
authors' own modules by `tests/golden/make_unet.py counts`.
"""

from score_jax.nets import EncoderUNet, UNet

DEFAULTS = {
    "num_res_blocks": 2, "num_heads": 4, "num_heads_upsample": -1, "num_head_channels": -1,
    "attention_resolutions": "16,8", "dropout": 0.0, "learn_sigma": False, "class_cond": False,
    "use_scale_shift_norm": True, "resblock_updown": False, "use_new_attention_order": False,
}  # fmt: skip
CLASSIFIER_DEFAULTS = {
    "classifier_width": 128, "classifier_depth": 2, "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True, "classifier_resblock_updown": True,
    "classifier_pool": "attention",
}  # fmt: skip
LEVELS = {
    512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}  # fmt: skip
IDDPM = {"learn_sigma": True, "num_res_blocks": 3, "num_channels": 128}
ADM = {
    "attention_resolutions": "32,16,8", "learn_sigma": True, "num_channels": 256,
    "num_head_channels": 64, "resblock_updown": True,
}  # fmt: skip
LSUN = {
    "image_size": 256, "num_channels": 128, "num_heads": 1, "learn_sigma": True,
    "use_scale_shift_norm": False, "attention_resolutions": "16",
}  # fmt: skip

# name: (program, flags, number of parameters)
PUBLISHED = {
    "cifar10_uncond_50M": ("improved", IDDPM | {"image_size": 32, "dropout": 0.3}, 52_546_438),
    "imagenet64_uncond_100M": ("improved", IDDPM | {"image_size": 64}, 121_063_942),
    "imagenet64_cond_270M": (
        "improved", IDDPM | {"image_size": 64, "num_channels": 192, "class_cond": True}, 273_049_350,
    ),
    "upsample_cond": (
        "improved",
        {"large_size": 256, "num_channels": 192, "learn_sigma": True, "class_cond": True}, 279_792_390,
    ),
    "lsun_uncond_100M": ("improved", LSUN, 113_676_678),
    "64x64_diffusion": (
        "guided",
        ADM | {"class_cond": True, "dropout": 0.1, "image_size": 64, "num_channels": 192,
               "num_res_blocks": 3, "use_new_attention_order": True}, 295_904_454,
    ),
    "128x128_diffusion": (
        "guided",
        ADM | {"class_cond": True, "image_size": 128, "num_head_channels": -1}, 421_529_606,
    ),
    "256x256_diffusion": ("guided", ADM | {"class_cond": True, "image_size": 256}, 553_838_086),
    "256x256_diffusion_uncond": ("guided", ADM | {"image_size": 256}, 552_814_086),
    "512x512_diffusion": ("guided", ADM | {"class_cond": True, "image_size": 512}, 558_997_638),
    "64_256_upsampler": (
        "guided",
        ADM | {"class_cond": True, "large_size": 256, "num_channels": 192,
               "num_head_channels": -1}, 311_795_910,
    ),
    "128_512_upsampler": (
        "guided",
        ADM | {"class_cond": True, "large_size": 512, "num_channels": 192,
               "attention_resolutions": "32,16"}, 308_835_270,
    ),
    "lsun_bedroom": ("guided", ADM | {"image_size": 256, "dropout": 0.1}, 552_814_086),
    "64x64_classifier": ("classifier", {"image_size": 64, "classifier_depth": 4}, 65_438_568),
    "128x128_classifier": ("classifier", {"image_size": 128}, 42_568_040),
    "256x256_classifier": ("classifier", {"image_size": 256}, 54_096_360),
    "512x512_classifier": ("classifier", {"image_size": 512}, 54_448_360),
}  # fmt: skip


def network(name):
    """Our module of a published network; its x has 3 channels."""
    program, given, _ = PUBLISHED[name]
    if program == "classifier":
        flags = CLASSIFIER_DEFAULTS | given
        size, resolutions = flags["image_size"], flags["classifier_attention_resolutions"]
        return EncoderUNet(
            channels=flags["classifier_width"],
            channel_mult=LEVELS[size],
            num_blocks=flags["classifier_depth"],
            attention_factors=tuple(size // int(r) for r in resolutions.split(",")),
            num_head_channels=64,
            scale_shift_norm=flags["classifier_use_scale_shift_norm"],
            resblock_updown=flags["classifier_resblock_updown"],
            num_classes=1000,
            pool=flags["classifier_pool"],
        )
    flags = DEFAULTS | given
    upsampler = "large_size" in flags
    size = flags["large_size"] if upsampler else flags["image_size"]
    resolutions = flags["attention_resolutions"].split(",")
    optional = lambda flag: None if flags[flag] == -1 else flags[flag]
    return UNet(
        channels=flags["num_channels"],
        # The upsampler to 512 pixels has the levels of 256.
        channel_mult=LEVELS[min(size, 256) if upsampler else size],
        num_blocks=flags["num_res_blocks"],
        attention_factors=tuple(size // int(r) for r in resolutions),
        dropout=flags["dropout"],
        num_heads=flags["num_heads"],
        num_heads_upsample=optional("num_heads_upsample"),
        num_head_channels=optional("num_head_channels"),
        scale_shift_norm=flags["use_scale_shift_norm"],
        resblock_updown=flags["resblock_updown"],
        new_attention_order=flags["use_new_attention_order"],
        out_channels=6 if flags["learn_sigma"] else 3,
        num_classes=1000 if flags["class_cond"] else None,
        super_resolution=upsampler,
    )
