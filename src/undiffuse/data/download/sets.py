"""Registry of the public data sets for ``undiffuse data get``. Imports nothing heavy.

Sizes are in bytes. Checksums are those stated by the publisher (Fashion-MNIST, CIFAR, npm) or recorded by torchvision
or TensorFlow Datasets, which download the same files. If a checksum is ``None``, only the size is verified, if known.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remote:
    """One published file.

    Args:
        urls: download URLs, the publisher's first; empty if it must be downloaded manually.
        name: local file name.
        size: in bytes, or ``None`` if unknown.
        checksum: ``md5:...`` and the like, or ``None``.
        page: web page for a manual download.
        unpack: (member of the zip, local name) of the members to unpack.
    """

    urls: tuple[str, ...]
    name: str
    size: int | None = None
    checksum: str | None = None
    page: str = ""
    unpack: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PublicSet:
    """A public data set of images.

    Args:
        about: short description.
        licence: in one line.
        files: all its files.
        data: value for ``--data``, relative to the folder of the set; ``""`` for the folder itself.
        hint: additional advice for its use.
    """

    about: str
    licence: str
    files: tuple[Remote, ...]
    data: str = ""
    hint: str = ""

    @property
    def size(self) -> int:
        """Total size in bytes of the files whose size is known."""
        return sum(file.size or 0 for file in self.files)

    @property
    def manual(self) -> bool:
        """Whether any file must be downloaded manually."""
        return any(not file.urls for file in self.files)


def _idx(bases: tuple[str, ...], rows: tuple[tuple[str, int, str], ...]) -> tuple[Remote, ...]:
    return tuple(Remote(tuple(base + name for base in bases), name, size, checksum) for name, size, checksum in rows)


_MNIST = (
    ("train-images-idx3-ubyte.gz", 9912422, "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    ("train-labels-idx1-ubyte.gz", 28881, "md5:d53e105ee54ea40749a09fcbcd1e9432"),
    ("t10k-images-idx3-ubyte.gz", 1648877, "md5:9fb629c4189551a2d022fa330f9573f3"),
    ("t10k-labels-idx1-ubyte.gz", 4542, "md5:ec29112dd5afa0611ce80d1b7f02629c"),
)
_FASHION = (
    ("train-images-idx3-ubyte.gz", 26421880, "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    ("train-labels-idx1-ubyte.gz", 29515, "md5:25c81989df183df01b3e8a0aad5dffbe"),
    ("t10k-images-idx3-ubyte.gz", 4422102, "md5:bef4ecab320f06d8554ea6380940ec79"),
    ("t10k-labels-idx1-ubyte.gz", 5148, "md5:bb300cfdad3c16e7a12a480ee83cd310"),
)
_KMNIST = (
    ("train-images-idx3-ubyte.gz", 18165135, "md5:bdb82020997e1d708af4cf47b453dcf7"),
    ("train-labels-idx1-ubyte.gz", 29497, "md5:e144d726b3acfaa3e44228e80efcd344"),
    ("t10k-images-idx3-ubyte.gz", 3041136, "md5:5c965bf0a639b31b8f53240b1b52f4d7"),
    ("t10k-labels-idx1-ubyte.gz", 5120, "md5:7320c461ea6c1c855c0b718fb2a4b134"),
)
_EMNIST_MEMBERS = tuple(
    (f"gzip/{name}", name)
    for part in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
    for split in ("train", "test")
    for kind in ("images-idx3", "labels-idx1")
    for name in [f"emnist-{part}-{split}-{kind}-ubyte.gz"]
)
_CELEBA_PAGE = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_LSUN_LICENCE = "none stated; gathered from the web for research"


def _lsun(category: str, size: int, checksum: str) -> PublicSet:
    folder = f"{category}_train_lmdb"
    member = f"{folder}/data.mdb"
    url = f"http://dl.yf.io/lsun/scenes/{folder}.zip"
    file = Remote((url,), f"{folder}.zip", size, checksum, unpack=((member, member),))
    return PublicSet(f"LSUN {category}, training part, shorter side 256", _LSUN_LICENCE, (file,), folder)


def _emoji(vendor: str, checksum: str, licence: str) -> PublicSet:
    package = f"emoji-datasource-{vendor}"
    name = f"{package}-16.0.0.tgz"
    file = Remote((f"https://registry.npmjs.org/{package}/-/{name}",), name, None, checksum)
    return PublicSet(f"emoji of {vendor}, 64x64, with names and categories", licence, (file,), name)


SETS: dict[str, PublicSet] = {
    "mnist": PublicSet(
        "MNIST: 70,000 handwritten digits, 28x28, grey",
        "none stated by its authors (Y. LeCun, C. Cortes, C. Burges)",
        _idx(("http://yann.lecun.com/exdb/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"), _MNIST),
    ),
    "fashion-mnist": PublicSet(
        "Fashion-MNIST: 70,000 pieces of clothing, 28x28, grey",
        "MIT (Zalando SE)",
        _idx(("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",), _FASHION),
    ),
    "kmnist": PublicSet(
        "Kuzushiji-MNIST: 70,000 cursive Japanese characters, 28x28, grey",
        "CC BY-SA 4.0 (ROIS-DS Center for Open Data in the Humanities)",
        _idx(("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",), _KMNIST),
    ),
    "emnist": PublicSet(
        "EMNIST: handwritten letters and digits in six parts, 28x28, grey",
        "none stated by its authors (Western Sydney University, from NIST's special database 19)",
        (
            Remote(
                (
                    "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                    "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip",
                ),
                "gzip.zip",
                561753746,
                "md5:58c8d27c78d21e728a6bc7b3cc06412e",
                unpack=_EMNIST_MEMBERS,
            ),
        ),
        "emnist-balanced-train-images-idx3-ubyte.gz",
        "or another of balanced, byclass, bymerge, digits, letters, mnist",
    ),
    "cifar10": PublicSet(
        "CIFAR-10: 60,000 images of 10 classes, 32x32",
        "none stated by its author (A. Krizhevsky)",
        (
            Remote(
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                "cifar-10-binary.tar.gz",
                170052171,
                "md5:c32a1d4ab5d03f1284b67883e8d87530",
            ),
        ),
        "cifar-10-binary.tar.gz",
    ),
    "cifar100": PublicSet(
        "CIFAR-100: 60,000 images of 100 classes, 32x32",
        "none stated by its author (A. Krizhevsky)",
        (
            Remote(
                ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
                "cifar-100-binary.tar.gz",
                168513733,
                "md5:03b5dce01913d631647c71ecec9e9cb8",
            ),
        ),
        "cifar-100-binary.tar.gz",
    ),
    "flowers": PublicSet(
        "TensorFlow's flower_photos: 3,670 photographs of 5 classes",
        "CC BY, by the photographers whom its LICENSE.txt names",
        (
            Remote(
                ("https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",),
                "flower_photos.tgz",
                228813984,
                "sha256:4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
            ),
        ),
        "flower_photos.tgz",
    ),
    "omniglot": PublicSet(
        "Omniglot, background set: 964 characters of 30 alphabets drawn 20 times each, 105x105",
        "MIT (B. Lake)",
        (
            Remote(
                ("https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background.zip",),
                "images_background.zip",
                9464212,
                "md5:68d2efa1b9178cc56df9314c21c6e718",
            ),
        ),
        "images_background.zip",
        "alphabets as classes with data.labels=folders, characters with data.labels=leaf",
    ),
    "emoji-twitter": _emoji(
        "twitter",
        "sha512:ec5fae0ae1c7fbb427adcd793f9b676ef2a483d13ab65ce2e0c9d3dae5b54653"
        "78a4b613cdae9c3ff76cb487d20ccb698c52d6b997b05a0f2305bb8bd9ec842d",
        "CC BY 4.0 (Twitter)",
    ),
    "emoji-google": _emoji(
        "google",
        "sha512:6517b17f3b3b315a0b9e6cd998db0ee132a19c0269e43fbe566e8fa54a47fe31"
        "104257a6a7797cf028d9f83a19d9f68cf51e10c5990e3c90a84fc0e53e17d0dc",
        "Apache-2.0 (Google)",
    ),
    "lsun-church": _lsun(
        "church_outdoor", 2448463466, "sha256:91128ae026840ac0c5982b4445ab5fc4e092d6847cca76793b2b1a0815c2e74a"
    ),
    "lsun-bedroom": _lsun(
        "bedroom", 45922737680, "sha256:a15644c2e7153106867f0adb3491fc41224102d1f01b24494fb47d9f5d1f174e"
    ),
    "lsun-cat": PublicSet(
        "LSUN cat, shorter side 256",
        _LSUN_LICENCE,
        (
            Remote(
                ("http://dl.yf.io/lsun/objects/cat.zip",),
                "cat.zip",
                44765061710,
                "sha256:cef7d1926d80f271ccfe2c55a610a1f9958eb2ac0bd188ddbe3cceb571eb9877",
                unpack=(("cat/data.mdb", "cat/data.mdb"),),
            ),
        ),
        "cat",
    ),
    "celeba": PublicSet(
        "CelebA: 202,599 faces with 40 attributes, aligned, 218x178",
        "non-commercial research only, by agreement on its page (MMLAB, CUHK)",
        (
            Remote((), "img_align_celeba.zip", 1443490838, "md5:00d2c5bc6d35e252742224ab0c1e8fcb", _CELEBA_PAGE),
            Remote((), "list_attr_celeba.txt", 26721026, "md5:75e246fa4810816ffd6ee81facbd244c", _CELEBA_PAGE),
            Remote((), "list_eval_partition.txt", 2836386, "md5:d32c9cbf5e040fd4025c592c306e6668", _CELEBA_PAGE),
        ),
        "img_align_celeba.zip",
        "a class of an attribute with data.attribute=Smiling",
    ),
    "celeba-hq": PublicSet(
        "CelebA-HQ as CelebAMask-HQ has it: 30,000 faces, 1024x1024",
        "non-commercial research only, by agreement on its page",
        (Remote((), "CelebAMask-HQ.zip", None, None, "https://github.com/switchablenorms/CelebAMask-HQ"),),
        "CelebAMask-HQ",
        "unpack the archive there first",
    ),
    "ffhq": PublicSet(
        "FFHQ thumbnails: 70,000 faces, 128x128",
        "CC BY-NC-SA 4.0 (NVIDIA), each photograph under its own licence",
        (Remote((), "thumbnails128x128.zip", None, None, "https://github.com/NVlabs/ffhq-dataset"),),
        "thumbnails128x128.zip",
    ),
}
