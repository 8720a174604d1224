"""`make audit`: asks for known vulnerabilities of locked packages, and whether the vendored script is the one we know.

Fails on what it finds; where the database of vulnerabilities cannot be asked, it says so and does not.
"""

import hashlib
import json
import subprocess
import sys

from cityweb.assets import STATIC, VENDORED

ANSWER_SECONDS = 5
ALL_SECONDS = 60


def known(lock: str, *database: str) -> list[str] | None:
    """What OSV or another database like it knows against locked packages; None where nobody could be asked."""
    pip_audit = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json"]
    packages = ["--requirement", lock, "--require-hashes", "--disable-pip"]
    # Not pip-audit's usual service: it takes a mirror that knows no vulnerability for one that knows of none.
    service = [
        "--vulnerability-service",
        "osv",
        "--timeout",
        str(ANSWER_SECONDS),
        *(f"--osv-url={at}" for at in database),
    ]
    try:
        done = subprocess.run([*pip_audit, *packages, *service], capture_output=True, timeout=ALL_SECONDS, check=False)
        audited = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        return None
    if not audited or any("skip_reason" in package for package in audited):
        return None
    return [
        f"{package['name']} {package['version']} has {found['id']}: take {remedy}."
        for package in audited
        for found in package["vulns"]
        for remedy in [" or ".join(found["fix_versions"]) or "another package"]
    ]


def main() -> None:
    """Prints what is wrong, one line each; status 1 where something is."""
    lock, *database = sys.argv[1:]
    wrong = [
        f"static/{name} is not the file that was reviewed."
        for name, digest in VENDORED.items()
        if hashlib.sha256((STATIC / name).read_bytes()).hexdigest() != digest
    ]
    vulnerable = known(lock, *database)
    if vulnerable is None:
        print(f"Not audited: nobody who knows vulnerabilities could be asked about {lock}.")
    elif not vulnerable:
        print(f"Audited: nothing is known against the packages of {lock}.")
    print(*wrong, *(vulnerable or []), sep="\n", end="\n" if wrong or vulnerable else "")
    sys.exit(1 if wrong or vulnerable else 0)


if __name__ == "__main__":
    main()
