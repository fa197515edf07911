# What `nix flake check` does: the build and its tests, the scripts' lint, and a short soak.
{
  lib,
  pkgs,
  soak,
}:
{
  tests = import ./package.nix {
    inherit lib pkgs;
    tests = true;
  };

  # Those of soak/ hand variables to each other, which is what is excluded.
  scripts = pkgs.runCommand "ringest-scripts" { nativeBuildInputs = [ pkgs.shellcheck ]; } ''
    cp -r ${../scripts} scripts
    cp -r ${../soak} soak
    bash_in() { grep -rlE '^#!/usr/bin/env bash|^# shellcheck shell=bash' "$1"; }
    bash_in scripts | xargs shellcheck --severity=warning --external-sources
    bash_in soak | xargs shellcheck --severity=warning --external-sources --exclude=SC2034,SC2154
    mkdir $out
  '';

  soak = pkgs.runCommand "ringest-soak-short" { nativeBuildInputs = [ soak ]; } ''
    ringest-soak endurance --duration 10s --out $out
  '';
}
