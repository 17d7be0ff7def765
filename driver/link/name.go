package link

const (
	// DriverName is the CSI name of the driver.
	DriverName = "lamina.dev"
	// TopologyKey is the key of the one topology segment: the name of the node.
	TopologyKey = "topology.lamina.dev/node"
	// PoolLabelPrefix begins the node labels that make pools:
	// pool.lamina.dev/<pool>: <profile>.
	PoolLabelPrefix = "pool.lamina.dev/"
	// Audience is the audience of the token that an agent shows.
	Audience = "lamina.dev"
	// Protocol is the value of the Upgrade header (RFC 9110 §7.8).
	Protocol = "lamina-csi"
)
