#!/bin/sh
# Makes the demo's tokens and the hubs' configuration with them, once: /secrets is a volume, and what is there stays.
# Digests go to tokens.toml, tokens to files of their own. They are readable to all containers that mount the volume, each of
# which runs as another user: right for a demo on one machine, for nothing else.
set -eu
umask 022
cd /secrets
if [ -f streamer.toml ]; then
  echo "the tokens are there already"
  exit 0
fi
# What an interrupted run has left would be refused as a second token of its name.
rm -f tokens.toml
streamer token --file tokens.toml --name demo-operator --role operator > operator.token
streamer token --file tokens.toml --name demo-gateways --role gateway --gateways '*' --groups '*' --tenants '*' > gateway.token
streamer token --file tokens.toml --name demo-nodes --role node > node.token
# Made for its owner alone, and the hubs run as another.
chmod 644 tokens.toml
{
  cat /demo/streamer.toml
  printf '\n[auth]\ntokens = "/secrets/tokens.toml"\nnode_token = "%s"\n' "$(cat node.token)"
} > streamer.toml.new
# Last, because its presence says that all is done.
mv streamer.toml.new streamer.toml
echo "the tokens have been made"
