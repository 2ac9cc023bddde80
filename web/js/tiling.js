// Grey out the tile settings of a node while its `tiling` input, which replaces them, is connected.
import { app } from "../../../scripts/app.js";

const REPLACED = ["tile", "overlap", "tile_batch"];
const NODES = ["TADiSRUpscale", "TADiSRUpscaleFolder"];

function update(node) {
  const connected = node.inputs?.some((input) => input.name === "tiling" && input.link != null);
  for (const widget of node.widgets ?? []) {
    if (REPLACED.includes(widget.name)) widget.disabled = Boolean(connected);
  }
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "tadisr.tiling",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const changed = node.onConnectionsChange;
    node.onConnectionsChange = function (...args) {
      const result = changed?.apply(this, args);
      update(this);
      return result;
    };
  },
  loadedGraphNode(node) {
    if (NODES.includes(node.comfyClass)) update(node);
  },
});
