# Sourced by the other scripts, and by you for an interactive shell: finds the virtual environment and the ROS to use.
#   $root    the workspace        $python  the virtual environment's Python
#   $ros     system (/opt/ros/jazzy), wheels (CPython 3.11 to 3.13, in the virtual environment) or none

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
system_ros=/opt/ros/jazzy

# The Python that the virtual environment is made with: the one that PYTHON names, the system's for the system's ROS, what
# .venv was made with before, or the first of 3.11 to 3.13, which ROS has wheels for. Below, .venv's own stands first on PATH;
# the one that PYTHON names is not looked for there.
base_python() {
  if [ -n "${PYTHON:-}" ]; then
    (PATH=${PATH//"$root/.venv/bin:"/} && command -v "$PYTHON") || { echo "there is no Python $PYTHON (PYTHON=...)" >&2; return 1; }
  elif [ -f $system_ros/setup.bash ]; then echo /usr/bin/python3
  elif [ -x "$python" ]; then "$python" -c 'import sys; print(sys._base_executable)'
  else
    local name path
    # The first that starts: a version manager has names of Pythons that are not chosen.
    for name in python3.11 python3.12 python3.13 python3; do
      if path=$(command -v $name) && "$path" -c "" 2>/dev/null; then echo "$path"; return; fi
    done
  fi
}

# The trainer's image has none, whatever its Python could have.
which_ros() {
  if [ "${DIWA_ROLE:-}" = trainer ]; then echo none
  elif [ -f $system_ros/setup.bash ]; then echo system
  elif "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then echo wheels
  else echo none; fi
}

# Colcon's and ROS's own setup files read unset variables.
source_quietly() {
  local flags=$-
  set +u
  # shellcheck disable=SC1090
  source "$1" >/dev/null
  [[ $flags == *u* ]] && set -u
  return 0
}

if [ -x "$python" ]; then
  ros=$(which_ros "$python")
  export PATH="$root/.venv/bin:$PATH"
  # The simulator and the learners are sized for one thread; two on a busy machine are slower than one.
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MUJOCO_GL="${MUJOCO_GL:-egl}" LP_NUM_THREADS="${LP_NUM_THREADS:-1}"
  # One machine unless told otherwise: a second one's traffic on the robot's network can stop the arm.
  export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
  case $ros in
    system) source_quietly $system_ros/setup.bash ;;
    wheels)
      export AMENT_PREFIX_PATH="$root/.venv" CMAKE_PREFIX_PATH="$root/.venv" ROS_DISTRO=jazzy ROS_VERSION=2
      # What importing rclpy from the wheels would set by starting Python anew, which a running pytest would not survive.
      libraries=$(printf '%s:' "$root"/.venv/lib "$root"/.venv/lib/python3.*/site-packages/ros_*.libs)
      export LD_LIBRARY_PATH="${libraries%:}" _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
      ;;
  esac
  if [ -f "$root/install/setup.bash" ]; then source_quietly "$root/install/setup.bash"; fi
fi
