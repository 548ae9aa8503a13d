#!/usr/bin/env bash
# Korean and English text that anyone may fetch: the help pages and manuals that Debian packages, as JSONL with a held-out part.
# usage: scripts/get-corpora.sh [FOLDER]      (default: corpora/, which git ignores)
#
# Needs apt-get and dpkg-deb (Debian, Ubuntu or a container of one), no root; about 160 MB of downloads, kept in FOLDER/packages.
# Licences: LibreOffice help MPL-2.0, GIMP help GFDL-1.2+, Debian FAQ GPL-2+, installation guide GPL-2, Debian handbook CC BY-SA 3.0 or GPL-2+.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
out="$(mkdir -p "${1:-$root/corpora}" && cd "${1:-$root/corpora}" && pwd)"
for tool in apt-get dpkg-deb python3; do
  command -v "$tool" >/dev/null || { echo "error: $tool is needed; run this in a Debian or Ubuntu container" >&2; exit 1; }
done
mkdir -p "$out/packages"

# The machine's own package lists may be old and are root's to renew: where they fail, fresh ones come into a folder here.
apt=()
download() { (cd "$out/packages" && apt-get "${apt[@]}" download -qq "$1" 2>"$out/packages/apt.log"); }
fresh_lists() {
  (( ${#apt[@]} == 0 )) || return 1
  mkdir -p "$out/packages/lists/partial"
  apt=(-o "Dir::State::Lists=$out/packages/lists" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o "APT::Sandbox::User=")
  echo "renewing the package lists" >&2
  apt-get "${apt[@]}" update -qq 2>"$out/packages/apt.log"
}

# fetch PACKAGE: downloads and unpacks it into packages/PACKAGE, once.
fetch() {
  local package="$1" folder="$out/packages/$1"
  [[ -d "$folder" ]] && return
  if ! download "$package" && ! { fresh_lists && download "$package"; }; then
    cat "$out/packages/apt.log" >&2
    echo "error: apt-get could not download $package" >&2
    exit 1
  fi
  dpkg-deb --extract "$out/packages/${package}_"*.deb "$folder.part"
  mv "$folder.part" "$folder"
  rm -f "$out/packages/${package}_"*.deb
}

# corpus PACKAGE LANGUAGE NAME PATH GLOB: the pages under PATH become LANGUAGE/NAME.{train,heldout}.jsonl.
corpus() {
  local package="$1" language="$2" name="$3" path="$4" glob="$5" script=any
  [[ "$language" == korean ]] && script=hangul
  fetch "$package"
  python3 "$root/scripts/help-to-jsonl.py" --name "$name" --out "$out/$language" --source "Debian $package" \
    --script "$script" --glob "$glob" "$out/packages/$package/$path"
}

corpus libreoffice-help-ko    korean  libreoffice_help usr/share/libreoffice/help/ko/text    '**/*.html'
corpus gimp-help-ko           korean  gimp_help        usr/share/gimp/2.0/help/ko            '*.html'
corpus debian-faq-ko          korean  debian_faq       usr/share/doc/debian/FAQ/ko           '*.html*'
corpus installation-guide-amd64 korean install_guide usr/share/doc/installation-guide-amd64/ko  '*.html'
corpus libreoffice-help-en-us english libreoffice_help usr/share/libreoffice/help/en-US/text '**/*.html'
corpus gimp-help-en           english gimp_help        usr/share/gimp/2.0/help/en            '*.html'
corpus debian-handbook        english debian_handbook  usr/share/doc/debian-handbook/html/en-US '*.html'
corpus installation-guide-amd64 english install_guide usr/share/doc/installation-guide-amd64/en '*.html'
