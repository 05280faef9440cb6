using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

public sealed class DirectFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-direct").FullName;
    private readonly MappedMemory _memory = MappedMemory.AllocateAnonymous(1 << 20, hugePages: false);

    private Span<byte> Memory => _memory.Memory.Span;

    public void Dispose()
    {
        ((IDisposable)_memory).Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public void A_read_beyond_the_end_is_zero_there()
    {
        string path = Path.Combine(_folder, "file");
        byte[] content = new byte[5000];
        Random.Shared.NextBytes(content);
        File.WriteAllBytes(path, content);
        using DirectFile file = DirectFile.Open(path, isWritable: false);
        Memory.Fill(0xFF);

        Assert.Equal(Errno.Success, file.Read(0, Memory[..8192]));

        Assert.Equal(5000, file.LengthBytes);
        Assert.Equal(content, Memory[..5000].ToArray());
        Assert.Equal(-1, Memory[5000..8192].IndexOfAnyExcept((byte)0));
        Assert.Equal(0xFF, Memory[8192]);
    }

    [Fact]
    public void What_was_written_is_read_back_and_a_file_opened_for_reading_refuses()
    {
        string path = Path.Combine(_folder, "file");
        File.WriteAllBytes(path, new byte[65536]);
        using DirectFile file = DirectFile.Open(path, isWritable: true);
        Memory[..4096].Fill(0x77);

        Assert.Equal(Errno.Success, file.Write(8192, Memory[..4096]));
        Assert.Equal(Errno.Success, file.Flush());
        Assert.Equal(Errno.Success, file.Read(8192, Memory.Slice(65536, 4096)));

        Assert.Equal(-1, Memory.Slice(65536, 4096).IndexOfAnyExcept((byte)0x77));
        using DirectFile readOnly = DirectFile.Open(path, isWritable: false);
        Assert.Equal(Errno.EBADF, readOnly.Write(0, Memory[..4096]));
    }

    [Fact]
    public void What_is_no_file_is_refused_with_the_reason_and_nobody_waits()
    {
        string pipe = Path.Combine(_folder, "pipe");
        using (System.Diagnostics.Process make = System.Diagnostics.Process.Start("mkfifo", pipe))
        {
            make.WaitForExit();
        }

        Assert.Equal(Errno.ENOENT, Refusal(Path.Combine(_folder, "none")).Errno);
        Assert.Equal(Errno.EINVAL, Refusal(pipe).Errno);
        Assert.Equal(Errno.EINVAL, Refusal("/dev/null").Errno);
        Assert.Equal(Errno.EINVAL, Refusal(_folder).Errno);
    }

    private static LinuxException Refusal(string path) =>
        Assert.Throws<LinuxException>(() => DirectFile.Open(path, isWritable: false));
}
