// Package nightly holds no code: nightly.sh is a job that runs once a night,
// whatever the number of machines that have it in cron.
package nightly
