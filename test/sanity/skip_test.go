package sanity

import "maps"

// Why a case skips itself.
const (
	noPublish = "volumes are where their node is: there is no ControllerPublishVolume (attachRequired: false)"
	disabled  = "csi-sanity itself has disabled this case (XIt)"
	noSnapTop = "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS (alpha) is not declared"
	noThin    = "thick volumes have no snapshots, clones and groups: not declared"
)

// thinSkips are the cases that skip themselves where a pool is thin.
var thinSkips = with(anySkips, map[string]string{
	"CreateSnapshot [Controller Server] should succeed when creating a snapshot with accessibility requirements": noSnapTop,
})

// thickSkips are those where all pools are thick.
var thickSkips = with(anySkips, map[string]string{
	"CreateSnapshot [Controller Server] should fail when no name is provided":                                                                       noThin,
	"CreateSnapshot [Controller Server] should fail when no source volume id is provided":                                                           noThin,
	"CreateSnapshot [Controller Server] should fail when requesting to create a snapshot with already existing name and different source volume ID": noThin,
	"CreateSnapshot [Controller Server] should succeed when creating a snapshot with accessibility requirements":                                    noThin,
	"CreateSnapshot [Controller Server] should succeed when creating snapshot with maximum-length name":                                             noThin,
	"CreateSnapshot [Controller Server] should succeed when requesting to create a snapshot with already existing name and same source volume ID":   noThin,
	"DeleteSnapshot [Controller Server] should fail when no snapshot id is provided":                                                                noThin,
	"DeleteSnapshot [Controller Server] should return appropriate values (no optional values added)":                                                noThin,
	"DeleteSnapshot [Controller Server] should succeed when an invalid snapshot id is used":                                                         noThin,
	"GetSnapshot [Controller Server] should return an error":                                                                                        noThin,
	"GetSnapshot [Controller Server] should return an error when the specified snapshot id does not exist":                                          noThin,
	"GetSnapshot [Controller Server] should return snapshot that match the specified snapshot id":                                                   noThin,
	"GroupController Service [GroupController Server] GroupControllerGetCapabilities should return appropriate capabilities":                        noThin,
	"GroupController Service [GroupController VolumeGroupSnapshots] CreateVolumeGroupSnapshot should fail when no name is provided":                 noThin,
	"GroupController Service [GroupController VolumeGroupSnapshots] DeleteVolumeGroupSnapshot should fail when no volume id is provided":            noThin,
	"GroupController Service [GroupController VolumeGroupSnapshots] DeleteVolumeGroupSnapshot should succeed when an invalid volume id is used":     noThin,
	"GroupController Service [GroupController VolumeGroupSnapshots] GetVolumeGroupSnapshot should fail when an invalid volume id is used":           noThin,
	"GroupController Service [GroupController VolumeGroupSnapshots] GetVolumeGroupSnapshot should fail when no volume id is provided":               noThin,
	"ListSnapshots [Controller Server] check the presence of new snapshots in the snapshot list":                                                    noThin,
	"ListSnapshots [Controller Server] should return appropriate values (no optional values added)":                                                 noThin,
	"ListSnapshots [Controller Server] should return empty when the specified snapshot id does not exist":                                           noThin,
	"ListSnapshots [Controller Server] should return empty when the specified source volume id does not exist":                                      noThin,
	"ListSnapshots [Controller Server] should return next token when a limited number of entries are requested":                                     noThin,
	"ListSnapshots [Controller Server] should return snapshots that match the specified snapshot id":                                                noThin,
	"ListSnapshots [Controller Server] should return snapshots that match the specified source volume id":                                           noThin,
	"Controller Service [Controller Server] CreateVolume should create volume from an existing source snapshot":                                     noThin,
	"Controller Service [Controller Server] CreateVolume should fail when the volume source snapshot is not found":                                  noThin,
	"Controller Service [Controller Server] CreateVolume should create volume from an existing source volume":                                       noThin,
	"Controller Service [Controller Server] CreateVolume should fail when the volume source volume is not found":                                    noThin,
})

// anySkips are those of every driver of ours.
var anySkips = map[string]string{
	"Controller Service [Controller Server] volume lifecycle should be idempotent":                                                                                          noPublish,
	"Controller Service [Controller Server] volume lifecycle should work":                                                                                                   noPublish,
	"Controller Service [Controller Server] ControllerPublishVolume should fail when no node id is provided":                                                                noPublish,
	"Controller Service [Controller Server] ControllerPublishVolume should fail when no volume capability is provided":                                                      noPublish,
	"Controller Service [Controller Server] ControllerPublishVolume should fail when no volume id is provided":                                                              noPublish,
	"Controller Service [Controller Server] ControllerPublishVolume should fail when publishing more volumes than the node max attach limit":                                noPublish,
	"Controller Service [Controller Server] ControllerPublishVolume should fail when the node does not exist":                                                               noPublish,
	"Controller Service [Controller Server] ControllerPublishVolume should fail when the volume does not exist":                                                             noPublish,
	"Controller Service [Controller Server] ControllerPublishVolume should fail when the volume is already published but is incompatible":                                   noPublish,
	"Controller Service [Controller Server] ControllerUnpublishVolume should fail when no volume id is provided":                                                            noPublish,
	"Controller Service [Controller Server] ListVolumes pagination should detect volumes added between pages and accept tokens when the last volume from a page is deleted": disabled,
}

func with(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}
