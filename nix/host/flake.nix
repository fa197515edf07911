{
  description = "Stands in for nixpkgs on a machine without a binary cache; see scripts/nix-host";
  outputs = _: import ./.;
}
