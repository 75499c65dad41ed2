"""What pip-audit's JSON says: exit 0 nothing known, 1 vulnerabilities, 3 it does not say.

A service that is away and a mirror without advisories look alike clean: packages that pip-audit
skipped were not audited, so a result that skips more than a few packages says nothing.
"""

import json
import sys

MOST_SKIPPED = 3  # packages of our own kind that no index knows

service, text = sys.argv[1], sys.stdin.read()
try:
    packages = json.loads(text)["dependencies"]
except (ValueError, KeyError, TypeError):
    sys.exit(3)
skipped = [each["name"] for each in packages if "skip_reason" in each]
found = [(each, hole) for each in packages for hole in each.get("vulns", [])]
if not found and (len(skipped) > MOST_SKIPPED or not packages):
    sys.exit(3)
for package, hole in found:
    fixed = ", ".join(hole["fix_versions"]) or "no version"
    print(f"{package['name']} {package['version']}: {hole['id']}, mended in {fixed}")
asked = len(packages) - len(skipped)
print(f"{asked} packages asked at {service}, {len(found)} vulnerabilities known.")
for name in skipped:
    print(f"{name}: not known there")
sys.exit(1 if found else 0)
