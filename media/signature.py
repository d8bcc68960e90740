"""Signs results by C2PA, with the optional package c2pa-python: who made a video, and that it is synthetic."""

from errors import InputError
from media.disclosure import SOURCE
from media.files import replacing

KINDS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime"}  # what C2PA knows of what is written
CURVES = {256: "es256", 384: "es384", 521: "es512"}  # bits of a key: C2PA's word for how it signs
ACTION = {"action": "c2pa.created", "digitalSourceType": SOURCE}
MANIFEST = {
    "claim_generator_info": [{"name": "inference.py"}],
    "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [ACTION]}}],
}


def signer(files, outfile):
    """A function that signs a finished video, by its path, in place; None without `files`.

    files: paths of the certificates, the signer's own first, and of its private key, both PEM.  outfile: of the video.
    Raises InputError, before any work is done, without the package, and for files and an `outfile` that do not serve.
    """
    if not files:
        return None
    try:
        import c2pa
        from cryptography.exceptions import UnsupportedAlgorithm
    except ImportError as error:
        hint = "pip install c2pa-python, as in requirements-extra.txt"
        raise InputError(f"--c2pa: the package c2pa-python is missing: {hint}") from error
    given = f"--c2pa {' '.join(map(str, files))}"
    if outfile.suffix.lower() not in KINDS:
        raise InputError(f"--c2pa: {outfile} cannot be signed: name one of {', '.join(KINDS)}")
    try:
        certificates, key = (path.read_bytes() for path in files)
        known = c2pa.C2paSignerInfo(algorithm(certificates, key), certificates, key, None)
        c2pa.Signer.from_info(known).close()
    except OSError as error:
        raise InputError(f"--c2pa {error.filename} cannot be read: {error.strerror}") from error
    except (c2pa.C2paError, TypeError, UnsupportedAlgorithm, ValueError) as error:
        raise InputError(f"{given} cannot sign: {error}") from error

    def sign(path):
        try:
            with replacing(path) as signed, c2pa.Signer.from_info(known) as by, c2pa.Builder(MANIFEST) as builder:
                with open(path, "rb") as source, open(signed, "w+b") as target:
                    builder.sign(by, KINDS[path.suffix.lower()], source, target)
        except c2pa.C2paError as error:
            raise InputError(f"{given} cannot sign {outfile}: {error}") from error

    return sign


def algorithm(certificates, key):
    """C2PA's word for how a private key signs; certificates, key: PEM. Raises ValueError where they do not fit."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(key, None)
    if x509.load_pem_x509_certificate(certificates).public_key() != key.public_key():
        raise ValueError("the first certificate is not of this private key")
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size in CURVES:
        return CURVES[key.key_size]
    if isinstance(key, (ed25519.Ed25519PrivateKey, rsa.RSAPrivateKey)):
        return "ps256" if isinstance(key, rsa.RSAPrivateKey) else "ed25519"
    raise ValueError(f"keys are of RSA, Ed25519 or a curve of {', '.join(map(str, CURVES))} bits")
