{{- define "selvedge.config" -}}
{{- if regexMatch `(?m)^[^#\n]*\b(interface|metricsAddress|startupTaint)["']?\s*=` .Values.extraConfig -}}
{{- fail "extraConfig: interface, agent.metricsAddress and agent.startupTaint are in the DaemonSets and the admission policy too, where this chart keeps the defaults; `selvedge install --config FILE` changes them everywhere" -}}
{{- end -}}
# Made by Helm from the values of the release.
clusterPodCIDRs = {{ toJson .Values.clusterPodCIDRs }}
serviceCIDRs = {{ toJson .Values.serviceCIDRs }}
{{ with .Values.extraConfig }}{{ . | trim }}
{{ end }}
[cni]
binDir = {{ toJson .Values.cni.binDir }}
confDir = {{ toJson .Values.cni.confDir }}
{{ end -}}
