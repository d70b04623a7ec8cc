{{- define "selvedge.config" -}}
# Made by Helm from the values of the release.
clusterPodCIDRs = {{ toJson .Values.clusterPodCIDRs }}
serviceCIDRs = {{ toJson .Values.serviceCIDRs }}
{{ with .Values.extraConfig }}{{ . | trim }}
{{ end }}
[cni]
binDir = {{ toJson .Values.cni.binDir }}
confDir = {{ toJson .Values.cni.confDir }}
{{ end -}}
