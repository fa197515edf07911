# soak/run and the programs that it starts. Whoever calls it says with --out where the reports go.
{ pkgs, ringest }:
pkgs.writeShellApplication {
  name = "ringest-soak";
  runtimeInputs = [
    ringest
    pkgs.bash
    pkgs.coreutils
    pkgs.findutils
    pkgs.gawk
    pkgs.gnugrep
    pkgs.gnused
    pkgs.iproute2
    pkgs.procps
    pkgs.python3
    pkgs.util-linux
  ];
  text = ''
    export RINGEST_BIN=${ringest}/bin
    exec bash ${../soak}/run "$@"
  '';
}
