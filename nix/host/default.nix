# Stands in for nixpkgs where there is no binary cache, and where building all of nixpkgs would take days: the few functions
# that our flake uses, on the tools of the machine. Not hermetic, and made for tests alone: builders see the whole machine, so
# the sandbox has to be off. No builder uses the network.
let
  # Which machine: scripts/nix-host writes it beside a copy of this file. Text, so that evaluation stays pure, and part of every
  # derivation, so that a new toolchain builds anew.
  machine = builtins.fromJSON (builtins.readFile ./machine.json);

  make =
    system: attributes: script:
    derivation (
      builtins.removeAttrs attributes [
        "meta"
        "nativeBuildInputs"
      ]
      // {
        inherit system;
        inherit (machine) toolchain;
        builder = "/bin/bash";
        # `nix develop` asks for it.
        outputs = [ "out" ];
        args = [
          "-euo"
          "pipefail"
          "-c"
          # A builtin at the end: otherwise bash becomes the last command, and Nix kills what has closed its output before it has
          # ended, as cp does.
          "${script}\n:"
        ];
        PATH = path (attributes.nativeBuildInputs or [ ]) machine.path;
        CARGO_HOME = machine.cargo;
        RUSTUP_HOME = machine.rustup;
      }
    )
    // {
      meta = attributes.meta or { };
    };

  path = packages: rest: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages ++ [ rest ]);

  packagesFor =
    system:
    let
      makeHere = make system;
    in
    # Found in the machine's PATH, so there is nothing to be made.
    lib.genAttrs [
      "bash"
      "bpftrace"
      "cargo"
      "clippy"
      "coreutils"
      "curl"
      "e2fsprogs"
      "findutils"
      "gawk"
      "git"
      "gnugrep"
      "gnumake"
      "gnused"
      "gzip"
      "heaptrack"
      "inferno"
      "iproute2"
      "openssl"
      "perf"
      "procps"
      "python3"
      "rustc"
      "rustfmt"
      "shellcheck"
      "strace"
      "util-linux"
    ] (name: makeHere { inherit name; } "mkdir -p $out/bin")
    // {
      # What `nix develop` starts.
      bashInteractive = makeHere { name = "bash-interactive"; } "mkdir -p $out/bin && ln -s /bin/bash $out/bin";

      stdenv.hostPlatform = { inherit system; };

      runCommand =
        name: attributes: script:
        makeHere (attributes // { inherit name; }) script;

      writeShellApplication =
        {
          name,
          runtimeInputs,
          text,
        }:
        makeHere
          {
            inherit name;
            program = ''
              #!/bin/bash
              set -o errexit -o nounset -o pipefail
              export PATH="${path runtimeInputs "$PATH"}"

              ${text}
            '';
          }
          ''
            mkdir -p $out/bin
            printf %s "$program" >$out/bin/${name}
            chmod +x $out/bin/${name}
            bash -n $out/bin/${name}
          '';

      mkShell =
        { packages }:
        makeHere {
          name = "ringest-shell";
          nativeBuildInputs = packages;
        } "mkdir $out";

      # Crates have been fetched by scripts/nix-host, so cargoLock is not looked at.
      rustPlatform.buildRustPackage =
        {
          pname,
          version,
          src,
          cargoLock,
          cargoBuildFlags,
          nativeBuildInputs,
          doCheck,
          dontStrip,
          meta,
          buildPhase ? "cargo build --release --locked --offline ${toString cargoBuildFlags}",
          checkType ? "release",
          cargoTestFlags ? [ ],
          installPhase ? ''
            mkdir -p $out/bin
            find target/release -maxdepth 1 -type f -executable ! -name '*.so' -exec cp -t $out/bin {} +
          '',
        }:
        makeHere
          {
            name = "${pname}-${version}";
            inherit src meta nativeBuildInputs;
          }
          ''
            cp -r $src source
            chmod -R u+w source
            cd source
            export CARGO_TARGET_DIR=$PWD/target
            ${buildPhase}
            ${
              if doCheck then
                "cargo test --locked --offline ${if checkType == "debug" then "" else "--profile ${checkType}"} ${toString cargoTestFlags}"
              else
                ""
            }
            ${installPhase}
          '';
    };

  lib = {
    genAttrs =
      names: value:
      builtins.listToAttrs (
        map (name: {
          inherit name;
          value = value name;
        }) names
      );
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    licenses.asl20 = { };
    optionalAttrs = wanted: attributes: if wanted then attributes else { };
  };
in
{
  inherit lib;
  # Both, because older versions of Nix look at all of them.
  legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] packagesFor;
}
