# soak/run and the programs that it starts. Without a name it is endurance, which wants nothing but this: the other scenarios
# take root, packages of the system or from a network, or long.
{ pkgs, ringest }:
pkgs.writeShellApplication {
  name = "ringest-soak";
  runtimeInputs = [
    ringest
    pkgs.bash
    pkgs.coreutils
    pkgs.e2fsprogs
    pkgs.findutils
    pkgs.gawk
    pkgs.gnugrep
    pkgs.gnused
    pkgs.gzip
    pkgs.iproute2
    pkgs.procps
    pkgs.python3
    pkgs.util-linux
  ];
  text = ''
    export RINGEST_BIN=${ringest}/bin
    name=endurance before=
    for word in "$@"; do
      [[ $word == -* || $before == --duration || $before == --out ]] || name=
      before=$word
    done
    exec bash ${../soak}/run "$@" ''${name:+"$name"}
  '';
}
