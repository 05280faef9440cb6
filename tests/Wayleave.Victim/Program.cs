using System.Globalization;
using System.Net;
using Wayleave.Victim;

[assembly: System.Runtime.Versioning.SupportedOSPlatform("linux")]

// A program that takes everything that there is to have of a host, one step after the other, and is killed in between:
//
//   Wayleave.Victim CONTROL_SOCKET BROKER_SOCKET MEETING ADDRESS SEED STEP...
//
// It says "begin STEP" and "end STEP", and after the last one waits to be killed.

using Belongings belongings = new(args[0], args[1], args[2], IPAddress.Parse(args[3]), args[4]);
foreach (string step in args[5..])
{
    Say("begin", step);
    await belongings.TakeAsync(step);
    Say("end", step);
}

await Console.In.ReadToEndAsync(); // which has an end when whoever started this is gone without a kill

static void Say(string what, string step)
{
    Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{what} {step}"));
    Console.Out.Flush();
}
