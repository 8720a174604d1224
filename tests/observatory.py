"""`make observatory`: scans the site behind TLS with MDN's HTTP Observatory; needs 130 points and no failed test."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from sqlalchemy import make_url

from cityweb.postgres import embedded, schema
from cityweb.server.protocol import GuardedProtocol

POINTS_MIN = 130
SCAN = """
const scanner = "./node_modules/@mdn/mdn-http-observatory/src/";
const { retrieve } = await import(scanner + "retriever/retriever.js");
const { ALL_TESTS } = await import(scanner + "constants.js");
const { getScoreModifier, getGradeForScore } = await import(scanner + "grader/grader.js");
const [port, least] = process.argv.slice(1).map(Number);
const answers = await retrieve("localhost", { httpsPort: port, httpPort: 9 });
let points = 100, failed = answers.responses.auto?.status === 200 ? 0 : 1;
for (const test of ALL_TESTS) {
  const outcome = test(answers);
  const more = getScoreModifier(outcome.result);
  points += more;
  failed += !outcome.pass;
  console.log(String(more).padStart(4), outcome.constructor.name.padEnd(30), outcome.result);
}
console.log(String(points).padStart(4), "points,", getGradeForScore(points).grade + ",", failed, "failed");
process.exit(points < least || failed ? 1 : 0);
"""


async def scan(scanner: Path, certificate: Path, key: Path) -> int:
    """Serves with this certificate. Returns the exit status of the scanner."""
    config = uvicorn.Config(
        "cityweb.web.app:from_environment",
        factory=True,
        http=GuardedProtocol,
        ws="none",
        port=0,
        ssl_certfile=certificate,
        ssl_keyfile=str(key),
        server_header=False,
        log_level="warning",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.1)
    port = server.servers[0].sockets[0].getsockname()[1]
    # The scanner downloads its list of HSTS preloaded hosts separately; localhost is not on it.
    (scanner / "node_modules/@mdn/mdn-http-observatory/conf/hsts-preload.json").write_text("{}")
    arguments = ("--input-type=module", "-e", SCAN, "--", str(port), str(POINTS_MIN))
    environment = {**os.environ, "NODE_EXTRA_CA_CERTS": str(certificate)}
    process = await asyncio.create_subprocess_exec("node", *arguments, cwd=scanner, env=environment)
    status = await process.wait()
    server.should_exit = True
    await serving
    return status


def main() -> None:
    """Scans a temporary site with its own database and certificate."""
    with TemporaryDirectory() as folder, embedded.serving(Path(folder)) as served:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        for_localhost = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        made = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-newkey", "rsa:2048", *for_localhost]
        subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        asyncio.run(schema.migrate(make_url(served.owner_url)))
        os.environ["DATABASE_URL"] = served.url
        status = asyncio.run(scan(Path(sys.argv[1]).absolute(), certificate, key))
    sys.exit(status)


if __name__ == "__main__":
    main()
