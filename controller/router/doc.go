// Package router is CSI for the whole cluster: Identity, Controller and
// GroupController, each call answered by the agent of the node that it is about.
//
// A request goes on as it came and the answer comes back as the agent gave it; an
// error gets the node's name. The router keeps no record of volumes: an id begins
// with the UUID of the volume group that it lies in, and package fleet knows where
// that is. What it remembers is only which node a CreateVolume without a certain
// outcome was sent to.
//
// A node without a link is Unavailable, at once and by name. It is never "not
// found" and never "no room": nothing is known of its disks.
package router
