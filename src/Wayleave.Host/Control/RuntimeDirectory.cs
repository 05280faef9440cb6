using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host.Control;

/// <summary>
/// The folder in which the running hosts of one user keep their tokens, sockets and registrations:
/// <c>$XDG_RUNTIME_DIR/wayleave</c>, or <c>/tmp/wayleave-UID</c>. Mode 0700 and ours; a folder that is not both is
/// refused, because whoever may write to it could read or replace a token.
/// </summary>
public static class RuntimeDirectory
{
    private const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;

    /// <summary>Where the folder is or would be. Looks, but makes nothing.</summary>
    /// <param name="environment">
    /// Looks a variable up; <see cref="Environment.GetEnvironmentVariable(string)"/> outside tests.
    /// </param>
    public static string Locate(Func<string, string?> environment) => BrokerSockets.LocateDirectory(environment);

    /// <summary>The folder, made if it is not there.</summary>
    /// <exception cref="WayleaveException">It cannot be made, or others could write to it; says what to do.</exception>
    public static string Open(Func<string, string?> environment)
    {
        string directory = Locate(environment);
        try
        {
            Directory.CreateDirectory(directory, Private);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(
                e, $"make the runtime directory {directory}", "set XDG_RUNTIME_DIR to a folder of your own");
        }

        Check(directory);
        return directory;
    }

    /// <summary>Whether the folder exists and is safe to read from; a missing one has no hosts in it.</summary>
    /// <exception cref="WayleaveException">EACCES: others could have written to it.</exception>
    public static bool Exists(string directory)
    {
        if (!FileStatus.TryRead(directory, out _))
        {
            return false;
        }

        Check(directory);
        return true;
    }

    private static void Check(string directory)
    {
        string operation = $"use the runtime directory {directory}";
        if (!FileStatus.TryRead(directory, out FileStatus status) || status.Kind != FileKind.Directory)
        {
            throw new WayleaveException(
                Errno.ENOTDIR, operation, "it is not a folder", "remove it, or set XDG_RUNTIME_DIR");
        }

        if (status.UserId != FileStatus.CurrentUserId)
        {
            throw new WayleaveException(
                Errno.EACCES,
                operation,
                $"it belongs to user {status.UserId}",
                "set XDG_RUNTIME_DIR to a folder of your own");
        }

        if ((status.Permissions & ~Private) != 0)
        {
            throw new WayleaveException(Errno.EACCES, operation, "others may use it", $"chmod 700 {directory}");
        }
    }
}
