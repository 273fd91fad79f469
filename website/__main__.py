"""Build the site: stage its pages, run Zensical, publish the pages' sources, check the links."""

import shutil
import subprocess
import sys
from pathlib import Path

from website import links, llms
from website.stage import ROOT, stage


def main() -> None:
    """Build into the folder that mkdocs.yml names; exit with 1 if anything is wrong."""
    settings = llms.configuration()
    site, staged = ROOT / settings["site_dir"], ROOT / settings["docs_dir"]
    listed = {path for _, path in llms.pages(settings["nav"])}
    stage(staged, listed)
    pages = {path.relative_to(staged).as_posix() for path in staged.rglob("*.md")}
    if omitted := {page for page in pages - listed if not page.startswith("repository/")}:
        sys.exit(f"`nav` in mkdocs.yml lists no page {', '.join(sorted(omitted))}: add it")
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT, check=True)
    for page in pages:  # llms.txt links to the sources
        (site / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(staged / page, site / page)
    if found := links.faults(site):
        sys.exit("\n".join(found))
    print(f"{len(pages)} pages in {site}, and every link within them leads somewhere")


if __name__ == "__main__":
    main()
