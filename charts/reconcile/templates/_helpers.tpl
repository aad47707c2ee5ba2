{{/* The release's name; where that is not the chart's, with the chart's. */}}
{{- define "reconcile.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "reconcile.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "reconcile.labels" -}}
{{ include "reconcile.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "reconcile.claim" -}}
{{- .Values.reports.existingClaim | default (printf "%s-reports" (include "reconcile.name" .)) -}}
{{- end -}}

{{/* The pod of both modes: `args` and `restartPolicy` are the mode's own. */}}
{{- define "reconcile.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "reconcile.selector" $root | nindent 4 }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := dict -}}
  {{- if eq $root.Values.mode "schedule" }}
  {{- /* A Deployment is not rolled out for settings that changed: their sum is part of its pods. */}}
  {{- $sum := list $root.Values.settings $root.Values.envFile | toJson | sha256sum }}
  {{- $annotations = dict "checksum/settings" $sum }}
  {{- end }}
  {{- with merge $annotations $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: {{ .restartPolicy }}
  terminationGracePeriodSeconds: 15
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    fsGroup: 10001
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: reconcile
      image: {{ printf "%s:%s" $root.Values.image.repository ($root.Values.image.tag | default $root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        {{- toYaml .args | nindent 8 }}
      {{- if or (not $root.Values.envFile) $root.Values.settings }}
      envFrom:
        {{- if not $root.Values.envFile }}
        - secretRef:
            name: {{ $root.Values.secret }}
        {{- end }}
        {{- if $root.Values.settings }}
        - configMapRef:
            name: {{ include "reconcile.name" $root }}
        {{- end }}
      {{- end }}
      {{- if eq $root.Values.mode "schedule" }}
      ports:
        - name: metrics
          containerPort: 9464
      livenessProbe:
        httpGet:
          path: /healthz
          port: metrics
        initialDelaySeconds: 30
        periodSeconds: 30
      {{- end }}
      resources:
        {{- toYaml $root.Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: reports
          mountPath: /app/reports
        - name: tmp
          mountPath: /tmp
        {{- if $root.Values.envFile }}
        - name: env
          mountPath: /app/.env
          subPath: .env
          readOnly: true
        {{- end }}
        {{- if and (eq $root.Values.mode "schedule") $root.Values.cronYaml }}
        - name: jobs
          mountPath: /app/jobs
          readOnly: true
        {{- end }}
  volumes:
    - name: reports
      {{- if $root.Values.reports.enabled }}
      persistentVolumeClaim:
        claimName: {{ include "reconcile.claim" $root }}
      {{- else }}
      emptyDir: {}
      {{- end }}
    - name: tmp
      emptyDir: {}
    {{- if $root.Values.envFile }}
    - name: env
      secret:
        secretName: {{ include "reconcile.name" $root }}
        defaultMode: 0440
    {{- end }}
    {{- if and (eq $root.Values.mode "schedule") $root.Values.cronYaml }}
    - name: jobs
      configMap:
        name: {{ include "reconcile.name" $root }}-jobs
    {{- end }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
