#!/bin/bash
# What people have who call an /upscale API from a shell: submit with curl, poll with jq, download.
set -u
api=$1 video=$2 target=$3

if [[ $video == http* ]]; then
	body=$(jq -n --arg url "$video" '{video_url: $url, resolution: "720p"}')
else
	body="{\"video_base64\": \"$(base64 -w 0 "$video")\", \"resolution\": \"720p\"}"
fi
answer=$(curl -s -X POST "$api/upscale" -H "Content-Type: application/json" -d "$body")
job=$(echo "$answer" | jq -r '.job_id')
if [ -z "$job" ] || [ "$job" = null ]; then
	echo "not accepted: $answer"
	exit 1
fi

while true; do
	status=$(curl -s "$api/status/$job")
	state=$(echo $status | jq -r '.status')
	elapsed=$(echo $status | jq -r '.elapsed_seconds')
	case $state in
	completed)
		curl -s "$(echo $status | jq -r '.download_url')" -o "$target"
		echo "$(echo $status | jq -r '.filename'), $(echo $status | jq -r '.output_size_mb') MB after ${elapsed%.*} s"
		exit 0
		;;
	failed)
		echo "failed: $(echo $status | jq -r '.error')"
		exit 1
		;;
	*) echo "$state [$(echo $status | jq -r '.progress')] $((${elapsed%.*} / 60)) min" ;;
	esac
	sleep 0.5
done
