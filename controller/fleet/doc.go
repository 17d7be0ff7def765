// Package fleet knows the nodes: which have a link, which pools they have, and
// which volume group lies on which node. It tells each agent over its link which
// pools are wanted and follows the status that the agent sends.
//
// All of it is in memory. After a restart of the controller it fills again as the
// agents link. What a node was last seen with stays known when its link is lost:
// that a node does not answer says nothing about its disks.
package fleet
