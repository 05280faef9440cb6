using System.Security.Cryptography;
using System.Text;
using Wayleave.Core;
using Wayleave.Host.Configuration;
using Wayleave.Linux;

namespace Wayleave.Host.Control;

/// <summary>
/// The secret that a caller over TCP presents. A fresh one has 256 random bits and lives in a file that only this user
/// can read; the file goes when the host goes.
/// </summary>
internal sealed class ControlToken : IDisposable
{
    private const int RandomBytes = 32;
    private const int FileBytesMax = 4096;
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    private readonly byte[] _hash;
    private readonly ulong _inode;

    private ControlToken(string token, string? file, ulong inode)
    {
        _hash = SHA256.HashData(Encoding.UTF8.GetBytes(token));
        (File, _inode) = (file, inode);
    }

    /// <summary>Where clients find it; null for a shared token, which the user hands around.</summary>
    public string? File { get; }

    /// <summary>A token that the user chose.</summary>
    public static ControlToken Share(string token) => new(token, file: null, inode: 0);

    /// <summary>A fresh token in a new file, mode 0600.</summary>
    /// <exception cref="WayleaveException">
    /// EEXIST: something is there, and it is never overwritten. EACCES: others may write to the folder. Or why it
    /// cannot be written.
    /// </exception>
    public static ControlToken Create(string file)
    {
        string operation = $"write the token file {file}";
        CheckFolder(Path.GetDirectoryName(file)!, operation);
        string token = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(RandomBytes));
        try
        {
            // CreateNew is O_CREAT | O_EXCL: neither an existing file nor a link at this name is written through.
            using FileStream stream = new(
                file,
                new FileStreamOptions
                {
                    Mode = FileMode.CreateNew,
                    Access = FileAccess.Write,
                    UnixCreateMode = OwnerOnly,
                });
            stream.Write(Encoding.ASCII.GetBytes(token + "\n"));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(
                e,
                operation,
                ErrnoMap.ToErrno(e) == Errno.EEXIST ? "remove it if no host uses it" : "name another by --token-file");
        }

        FileStatus.TryRead(file, out FileStatus status);
        return new ControlToken(token, file, status.Inode);
    }

    /// <summary>Reads a token that a host or a user wrote.</summary>
    /// <exception cref="WayleaveException">It cannot be read, or it holds no token.</exception>
    public static string Read(string file)
    {
        string operation = $"read the token file {file}";
        string text;
        try
        {
            using FileStream stream = System.IO.File.OpenRead(file);
            Span<byte> bytes = stackalloc byte[FileBytesMax];
            text = Encoding.UTF8
                .GetString(bytes[..stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false)]).Trim();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(e, operation, "the host that wrote it prints its path when it starts");
        }

        return ControlConfig.DescribeProblemOfToken(text) is { } problem
            ? throw new WayleaveException(Errno.EINVAL, operation, problem)
            : text;
    }

    /// <summary>
    /// Whether this is the token. Takes the same time for every wrong one, whatever its length or common prefix.
    /// </summary>
    public bool Matches(string presented) =>
        CryptographicOperations.FixedTimeEquals(SHA256.HashData(Encoding.UTF8.GetBytes(presented)), _hash);

    /// <summary>Removes the file, unless somebody put another one in its place.</summary>
    public void Dispose()
    {
        if (File is not null && FileStatus.TryRead(File, out FileStatus status) && status.Inode == _inode)
        {
            System.IO.File.Delete(File);
        }
    }

    private static void CheckFolder(string folder, string operation)
    {
        if (!FileStatus.TryRead(folder, out FileStatus status))
        {
            throw new WayleaveException(
                Errno.ENOENT, operation, $"there is no folder {folder}", $"mkdir -m 700 {folder}");
        }

        // In a sticky folder such as /tmp others can add files but not replace ours.
        bool isTrusted = status.UserId is 0 || status.UserId == FileStatus.CurrentUserId;
        bool isSticky = (status.Permissions & UnixFileMode.StickyBit) != 0;
        if (status.Kind == FileKind.Directory && (!isTrusted || (status.IsWritableByOthers && !isSticky)))
        {
            throw new WayleaveException(
                Errno.EACCES,
                operation,
                $"others may replace files in {folder}",
                "use a folder of your own, mode 0700");
        }
    }
}
