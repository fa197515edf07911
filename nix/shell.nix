# What building, testing and profiling take: `nix develop`.
{ pkgs }:
pkgs.mkShell {
  packages = [
    pkgs.cargo
    pkgs.clippy
    pkgs.rustc
    pkgs.rustfmt

    # For scripts/test and what it starts.
    pkgs.curl
    pkgs.git
    pkgs.gnumake
    pkgs.openssl
    pkgs.procps
    pkgs.python3
    pkgs.shellcheck
    pkgs.util-linux

    # For the scripts of docs/PROFILING.md.
    pkgs.bpftrace
    pkgs.heaptrack
    pkgs.inferno
    pkgs.perf
    pkgs.strace
  ];
}
